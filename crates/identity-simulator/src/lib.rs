//! Speaks the wire formats of the identity services, for tests and the demo.
