"""Review predictions in a browser on this machine, and record decisions.

``reviewed_cohort`` opens a work folder and lists its slides, ``reviewed_slide`` reads one, ``values`` and ``tiles``
encode it for the browser, ``decisions`` records. ``app`` answers with all of this, ``security`` refuses requests of
other sites, ``server`` limits connections. ``viewer`` installs OpenSeadragon, the only part that is not ours.
``pack_page`` asks a person about the images of a pack.
"""
