// Package openapi holds the OpenAPI 3.1 document of the REST API.
//
// The test of this package generates the document (go test ./proto/openapi -update) from fulcio.swagger.json, which is
// generated from the .proto files, the table of reasons of package fault, and a table of authentication, statuses and
// examples.
package openapi

import _ "embed"

// Document is the OpenAPI document as JSON. A caller MUST NOT change it.
//
//go:embed fulcio.json
var Document []byte
