"""The words services exchange: facts, requests, and what lies in the store. msgspec and nothing else."""
