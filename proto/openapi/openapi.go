// Package openapi holds the OpenAPI 3.1 document of the REST API.
//
// The test of this package makes it (go test ./proto/openapi -update) out of fulcio.swagger.json, which is generated
// from the .proto files, the table of reasons of package fault, and what neither of them says: authentication,
// statuses, examples.
package openapi

import _ "embed"

// Document is the OpenAPI document as JSON. A caller MUST NOT change it.
//
//go:embed fulcio.json
var Document []byte
