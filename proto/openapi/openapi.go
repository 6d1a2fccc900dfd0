// Package openapi holds the OpenAPI 2.0 document of the REST API, generated from the .proto file beside it.
package openapi

import _ "embed"

// Document is the OpenAPI document as JSON. A caller MUST NOT change it.
//
//go:embed fulcio.swagger.json
var Document []byte
