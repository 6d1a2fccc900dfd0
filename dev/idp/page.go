package idp

import (
	"html/template"
	"net/http"
)

// formPage is the sign-in form.
type formPage struct {
	Title, Action, Code string
	Device              bool
}

const frame = `<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width,initial-scale=1">
<title>mayfly dev</title><style>
body{font:16px/1.5 system-ui,sans-serif;max-width:24rem;margin:12vh auto;padding:0 1rem;color:#1b1f24;background:#fafaf7}
h1{font-size:1.4rem}label{display:block;margin:1rem 0 .25rem}input{font:inherit;width:100%;box-sizing:border-box;padding:.5rem;border:1px solid #8a8f98;border-radius:.4rem}
button{font:inherit;margin-top:1rem;padding:.5rem 1.2rem;border:0;border-radius:.4rem;background:#23606e;color:#fff}p{color:#4a4f57}code{word-break:break-all}
@media(prefers-color-scheme:dark){body{background:#16181b;color:#e8e8e4}p{color:#a9adb3}input{background:#202327;color:inherit}}
</style>`

var (
	formTemplate = template.Must(template.New("form").Parse(frame + `<main><h1>{{.Title}}</h1>
<p>This provider is for development on this machine. Any address will do; nothing is checked.</p>
<form method="post" action="{{.Action}}">{{if .Device}}<label for="c">Code on the device</label><input id="c" name="user_code" value="{{.Code}}" required autocomplete="off">{{end}}
<label for="e">E-mail address</label><input id="e" name="email" type="email" required autofocus autocomplete="email" placeholder="alice@example.com">
<button>Sign in</button></form></main></html>`))
	textTemplate = template.Must(template.New("text").Parse(frame +
		`<main><h1>{{.Title}}</h1><p>{{.Text}}</p>{{with .Code}}<p><code>{{.}}</code></p>{{end}}</main></html>`))
)

type textPage struct{ Title, Text, Code string }

type page struct {
	code     int
	template *template.Template
	data     any
}

func (p page) show(w http.ResponseWriter) {
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	w.WriteHeader(p.code)
	_ = p.template.Execute(w, p.data) // an error means that the browser disconnected
}

func showForm(w http.ResponseWriter, p formPage) {
	page{http.StatusOK, formTemplate, p}.show(w)
}

func showError(w http.ResponseWriter, text string) {
	page{http.StatusBadRequest, textTemplate, textPage{Title: "That did not work", Text: text}}.show(w)
}

func showCode(w http.ResponseWriter, code string) {
	page{http.StatusOK, textTemplate, textPage{
		Title: "Signed in",
		Text:  "Copy this code into the program that asked for it:", Code: code,
	}}.show(w)
}

func showDone(w http.ResponseWriter) {
	page{http.StatusOK, textTemplate, textPage{Title: "Signed in", Text: "You can close this page."}}.show(w)
}
