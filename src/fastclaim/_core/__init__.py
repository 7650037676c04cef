"""The parts of both cores. The protocol is written at the head of `_transition_py`."""
