"""Train a classifier and search its settings.

``dataset``, ``data_summary``, ``crops``, ``group_checks`` and ``intervene`` prepare and check the patches, and do
without torch; ``fit`` trains on arrays, ``run`` and ``tune`` read and write a work folder.
"""
