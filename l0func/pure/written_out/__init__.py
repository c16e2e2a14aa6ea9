"""torch functions written out in plain operations, with their randomness and their rows supplied
by the caller.
"""
