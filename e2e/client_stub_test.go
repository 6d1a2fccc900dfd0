//go:build all

package e2e_test

func gitsign(w *world)           { w.Fatal("not yet") }
func kubernetesRelease(w *world) { w.Fatal("not yet") }
func admission(w *world)         { w.Fatal("not yet") }
func slsaProvenance(w *world)    { w.Fatal("not yet") }
func kubernetesAccount(w *world) { w.Fatal("not yet") }
func spiffeWorkload(w *world)    { w.Fatal("not yet") }
