//go:build nokms_vault

package kms

func vaultTransit() provider {
	return provider{
		name: vaultName, tag: "nokms_vault", schemes: []string{"hashivault://", "openbao://"},
		kekSchemes: []string{"hashivault://", "openbao://"},
	}
}
