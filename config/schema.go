package config

import _ "embed"

// The schemas are generated from the structs by a test of this package (go test ./config -update).
var (
	//go:embed schema/mayfly.json
	mayflySchema []byte
	//go:embed schema/identity.json
	identitySchema []byte
	//go:embed schema/plan.json
	planSchema []byte
)

// Schema returns a JSON Schema (draft 2020-12) for editors: "mayfly" for the configuration, "identity" for the issuer
// file, "plan" for the plan of a ceremony. It describes keys and types; only [Load] finds contradictions. It returns
// false for another name.
func Schema(name string) ([]byte, bool) {
	switch name {
	case "mayfly":
		return mayflySchema, true
	case "identity":
		return identitySchema, true
	case "plan":
		return planSchema, true
	}
	return nil, false
}
