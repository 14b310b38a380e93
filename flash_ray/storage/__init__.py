"""Object storage: resume state, published students and the manifests that vouch for both."""
