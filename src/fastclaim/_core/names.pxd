"""The paths of a claim's files, made of ids that need no encoding; with the GIL."""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.string cimport memchr, memcpy, strlen

cdef extern from "Python.h":
    bint PyUnicode_IS_COMPACT_ASCII(object text)
    void *PyUnicode_1BYTE_DATA(object text)
    Py_ssize_t PyUnicode_GET_LENGTH(object text)

cdef enum:
    NAME_MAX_BYTES = 255


cdef inline bint is_plain(object name) noexcept:
    """Whether this is a string that is part of a file name as it is, byte for byte."""
    cdef const char *text
    cdef Py_ssize_t size_bytes
    if type(name) is not str or not PyUnicode_IS_COMPACT_ASCII(name):
        return False
    text, size_bytes = <const char *>PyUnicode_1BYTE_DATA(name), PyUnicode_GET_LENGTH(name)
    return memchr(text, c'/', size_bytes) == NULL and memchr(text, 0, size_bytes) == NULL


cdef inline char *put(char *at, const void *text, Py_ssize_t size_bytes) noexcept:
    memcpy(at, text, size_bytes)
    return at + size_bytes


cdef inline bytes plain_path(bytes directory, object first, object second, const char *suffix):
    """`directory/first_second.suffix`, as in `Directories`; None if that has to tell."""
    cdef Py_ssize_t first_bytes = PyUnicode_GET_LENGTH(first)
    cdef Py_ssize_t second_bytes = 0 if second is None else PyUnicode_GET_LENGTH(second) + 1
    cdef Py_ssize_t suffix_bytes = strlen(suffix)
    cdef Py_ssize_t directory_bytes = PyBytes_GET_SIZE(directory)
    cdef bytes path
    cdef char *at
    if first_bytes + second_bytes + suffix_bytes > NAME_MAX_BYTES:
        return None
    path = PyBytes_FromStringAndSize(
        NULL, directory_bytes + 1 + first_bytes + second_bytes + suffix_bytes)
    at = put(PyBytes_AS_STRING(path), PyBytes_AS_STRING(directory), directory_bytes)
    at = put(at, b"/", 1)
    at = put(at, PyUnicode_1BYTE_DATA(first), first_bytes)
    if second is not None:
        at = put(at, b"_", 1)
        at = put(at, PyUnicode_1BYTE_DATA(second), second_bytes - 1)
    put(at, suffix, suffix_bytes)
    return path
