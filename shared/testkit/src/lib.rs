//! Fixtures, images and fakes for tests.
