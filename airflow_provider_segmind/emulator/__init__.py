"""An offline Segmind for tests. Shares no code with the client."""
