//go:build !linux

package systemd

func monotonic() (int64, error) { return 0, nil }
