//go:build nokms_azure

package kms

func azureKeyVault() provider {
	return provider{name: "Azure Key Vault", tag: "nokms_azure", schemes: []string{"azurekms://"}}
}
