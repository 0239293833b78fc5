"""Review predictions in a browser on this machine, and record decisions.

``cohort`` opens a work folder and lists its slides, ``slide`` reads one, ``values`` and ``tiles`` encode it for the
browser, ``decisions`` records. ``app`` serves all of this, ``security`` refuses requests of other sites. ``viewer``
installs OpenSeadragon, the only part that is not ours.
"""
