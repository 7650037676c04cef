"""Processes that make one system call at a time, and every order in which several can make them.

kernel.py     files and flocks in memory, small enough to be copied before each call
process.py    a process: what it does next, by what its calls have come to so far
calls.py      `os` and the like, for the code under test, by that kernel
explorer.py   all states that some processes can come to
"""
