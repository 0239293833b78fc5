"""Features that pathology encoders made: read them, join their labels, measure the tissue of their patches."""
