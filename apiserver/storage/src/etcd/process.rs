//! An etcd for tests.
