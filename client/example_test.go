package client_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"fmt"
	"log"
	"os"

	"github.com/mayfly-ca/mayfly/client"
	"github.com/mayfly-ca/mayfly/trust"
)

// A trusted root lists the trusted CAs and logs. Request verifies the certificate against it: the certificate is for
// the key that was sent, has the identity of the token, was issued by an authority that is trusted now, and has an SCT
// of a trusted log.
func Example() {
	data, err := os.ReadFile("trusted_root.json")
	if err != nil {
		log.Fatal(err)
	}
	root, err := trust.ParseTrustedRoot(data)
	if err != nil {
		log.Fatal(err)
	}
	trusted := root.ForClient()
	ca, err := client.New(client.Options{URL: "https://ca.example.com", Trust: &trusted})
	if err != nil {
		log.Fatal(err)
	}
	defer ca.Close()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		log.Fatal(err) //nolint:gocritic // the process ends, and the connection with it
	}
	got, err := ca.Request(context.Background(), client.Request{Token: os.Getenv("SIGSTORE_ID_TOKEN"), Signer: key})
	if err != nil {
		log.Fatal(client.Explain(err))
	}
	fmt.Println(got.Identity.SAN.Value, len(got.SCTs))
}

// The zero value of Trust trusts no CA and requires an SCT; NoSCTs disables the SCT check.
func ExampleTrust() {
	t := client.Trust{}
	_, err := client.Verify(nil, t, someTime)
	fmt.Println(err)
	t.MinSCTs = client.NoSCTs // a CA without a Certificate Transparency log
	fmt.Println(t.MinSCTs)
	// Output:
	// there is no certificate to verify
	// -1
}
