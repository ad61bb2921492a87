"""Speakers: when each of them speaks, and which words are theirs."""
