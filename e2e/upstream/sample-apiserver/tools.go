//go:build tools

// Package upstream pins upstream's sample API server, an aggregated one; it holds no code of its own.
package upstream

import _ "k8s.io/sample-apiserver"
