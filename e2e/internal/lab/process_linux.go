package lab

import "syscall"

// processAttributes makes a program end with the test process, also when that is killed.
func processAttributes() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
}
