package binaries

// Table returns every program of others that the tests run, pinned. The cheap ones stand first, so that a failure of
// the toolchain shows early.
func Table() []Tool {
	return []Tool{
		{Name: "logcheck", Module: "tools/tesseract", Package: "./logcheck", Version: "v1.0.4"},
		{Name: "tesseract", Module: "tools/tesseract", Package: ".", Version: "v0.1.2"},
		{Name: "ctfe", Module: "tools/ctfe", Package: ".", Version: "v1.4.0"},
		{
			Name: "sigstore-go-conformance", Package: "github.com/sigstore/sigstore-go/test/conformance",
			Version: "v1.3.0",
		},
		{Name: "rekor-server", Package: "github.com/sigstore/rekor-tiles/v2/cmd/rekor-server/posix", Version: "v2.3.0"},
		{
			Name: "timestamp-server", Package: "github.com/sigstore/timestamp-authority/v2/cmd/timestamp-server",
			Version: "v2.1.3",
		},
		{Name: "grpcurl", Package: "github.com/fullstorydev/grpcurl/cmd/grpcurl", Version: "v1.9.4"},
		{Name: "fulcio", Package: "github.com/sigstore/fulcio", Version: "v1.8.8"},
		{Name: "cosign", Package: "github.com/sigstore/cosign/v3/cmd/cosign", Version: "v3.1.3"},
	}
}
