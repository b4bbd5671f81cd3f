"""Recorder: finds again what was said about a run.

Hears    nothing: it reads the stream when it is asked
Says     nothing
Answers  events.find
Keeps    nothing
"""
