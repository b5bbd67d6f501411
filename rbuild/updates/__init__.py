"""An update: planned, taken step by step, judged, cleaned up."""
