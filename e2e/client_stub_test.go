//go:build all

package e2e_test

func gitsign(w *world)           { w.Fatal("not yet") }
