module github.com/mayfly-ca/mayfly/e2e

go 1.27.0

toolchain go1.27.4

require golang.org/x/crypto v0.59.0
