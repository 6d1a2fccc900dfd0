package provider

import "testing"

// E10: parsing arbitrary bytes as keys returns an error or keys that may verify tokens.
func FuzzKeys(f *testing.F) {
	f.Add(`{"keys":[{"kty":"EC","crv":"P-256","x":"f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU","y":"x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0","kid":"1"}]}`)
	f.Add(`{"issuer":"https://a","jwks_uri":"https://a/keys","id_token_signing_alg_values_supported":["none","RS256"]}`)
	f.Add(`{"keys":[{"kty":"oct","k":"AA"}]}`)
	f.Fuzz(func(t *testing.T, text string) {
		set, err := parseUsableKeys([]byte(text))
		if err == nil && len(set.keys) == 0 {
			t.Error("no key and no error")
		}
		for _, k := range set.keys {
			if weakness(k.Key) != "" || !k.IsPublic() || k.Use == "enc" {
				t.Errorf("%+v", k)
			}
		}
		if d, err := parseDiscovery([]byte(text), "https://a"); err == nil &&
			(d.Issuer != "https://a" || len(d.Algorithms) == 0) {
			t.Errorf("%+v", d)
		}
	})
}
