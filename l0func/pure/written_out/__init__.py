"""torch functions written out in plain operations; the caller supplies their random draws.

``table.py`` lists them.
"""
