//go:build nokms_google

package kms

func googleKMS() provider {
	return provider{
		name: "Google Cloud KMS", tag: "nokms_google", schemes: []string{"gcpkms://"},
		kekSchemes: []string{"gcp-kms://"},
	}
}
