"""What is right in a heatmap, in the eyes of a person? A web page that shows predictions and keeps decisions.

``app`` is the application, ``server`` starts and ends it, ``security`` says who may ask, ``viewer`` fetches the one
thing in it that is not ours, at build time.
"""
