//go:build !linux

package lab

import "syscall"

func processAttributes() *syscall.SysProcAttr { return nil }
