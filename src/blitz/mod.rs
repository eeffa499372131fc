//! blitz.
