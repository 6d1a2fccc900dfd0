//go:build nokms_aws

package kms

func awsKMS() provider {
	return provider{
		name: "AWS KMS", tag: "nokms_aws", schemes: []string{"awskms://"},
		kekSchemes: []string{"aws-kms://"},
	}
}
