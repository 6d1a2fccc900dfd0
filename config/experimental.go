package config

import (
	"errors"
	"slices"
	"strings"

	"github.com/mayfly-ca/mayfly/ca/signer/backends"
	"github.com/mayfly-ca/mayfly/fault"
	"github.com/mayfly-ca/mayfly/pop"
)

// Experimental has settings that may change or go away in every version.
type Experimental struct {
	// MLDSACA permits chains with ML-DSA keys (RFC 9881), which few verifiers know. Default: false.
	MLDSACA bool `yaml:"mldsa_ca"`
	// MLDSAChain is a second chain, with an ML-DSA key. It signs for clients whose own key is an ML-DSA key; the chain
	// of ca signs for all others. Exactly one key backend is set.
	MLDSAChain *backends.Table `yaml:"mldsa_chain"`
}

// check finds what is wrong without reading a file; algorithms are those of client_algorithms.
func (e Experimental) check(algorithms []string) error {
	if err := pop.MLDSAError(); err != nil && e.MLDSACA {
		return fault.BadSetting("ML-DSA is not in this build: "+err.Error(),
			"remove it, or use a build without GOFIPS140=v1.0.0", "mldsa_ca")
	}
	if e.MLDSAChain == nil {
		return nil
	}
	errs := []error{fault.Under(e.MLDSAChain.Check(), "mldsa_chain")}
	if !e.MLDSACA {
		errs = append(errs, fault.BadSetting("chains with ML-DSA keys are experimental",
			"also write mldsa_ca: true", "mldsa_chain"))
	}
	if name, backend := e.MLDSAChain.Selected(); backend != nil && backend.Temporary() {
		errs = append(errs, fault.BadSetting("a temporary key cannot be an ML-DSA key", "use a persistent key",
			"mldsa_chain", name))
	}
	if !slices.ContainsFunc(algorithms, func(a string) bool { return strings.HasPrefix(a, "mldsa-") }) {
		errs = append(errs,
			fault.BadSetting("no client gets a certificate of this chain, because client_algorithms has "+
				"no ML-DSA algorithm", "add mldsa-65, or another parameter set, to client_algorithms", "mldsa_chain"))
	}
	return errors.Join(errs...)
}

// MLDSAAt returns the path, in the configuration, of a setting of the backend of experimental.mldsa_chain.
func (c *Config) MLDSAAt(setting ...string) []string {
	name, _ := c.Experimental.MLDSAChain.Selected()
	return append([]string{"experimental", "mldsa_chain", name}, setting...)
}

// PlaceMLDSA is [CA.Place] for the chain of experimental.mldsa_chain.
func (c *Config) PlaceMLDSA(err error) error {
	if err == nil {
		return nil
	}
	return fault.Under(c.Experimental.MLDSAChain.Place(err), "experimental", "mldsa_chain")
}
