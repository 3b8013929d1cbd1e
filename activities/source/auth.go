package source

import (
	"context"
	"os"

	"github.com/go-git/go-git/v5/plumbing/transport"
	githttp "github.com/go-git/go-git/v5/plumbing/transport/http"
	gitssh "github.com/go-git/go-git/v5/plumbing/transport/ssh"

	"portcullis.dev/portcullis/activities/errs"
	"portcullis.dev/portcullis/rancher"
)

// credentials reads the Secret that Fleet uses as well: username and password, or
// ssh-privatekey and known_hosts.
func (a *Activities) credentials(ctx context.Context, src rancher.Source, namespace string) (transport.AuthMethod, error) {
	ep, err := transport.NewEndpoint(src.Repo)
	if err != nil {
		return nil, errs.Invalid("spec.source.repo is not a URL that Git knows")
	}
	if src.ClientSecretName == "" {
		if ep.Protocol == "ssh" {
			return nil, errs.Invalid("%s needs an SSH key; name a Secret of workspace %s as clientSecretName", rancher.RedactURL(src.Repo), namespace)
		}
		return nil, nil
	}
	data, err := a.secrets.ReadSecret(ctx, namespace, src.ClientSecretName)
	if err != nil {
		return nil, errs.FromRancher(err)
	}
	where := namespace + "/" + src.ClientSecretName
	if ep.Protocol == "ssh" {
		return sshKey(ep.User, where, data)
	}
	if len(data["username"]) == 0 && len(data["password"]) == 0 {
		return nil, errs.Invalid("Secret %s has neither username nor password, which %s needs", where, rancher.RedactURL(src.Repo))
	}
	return &githttp.BasicAuth{Username: string(data["username"]), Password: string(data["password"])}, nil
}

// sshKey refuses to connect to a host that nobody vouched for.
func sshKey(user, where string, data map[string][]byte) (transport.AuthMethod, error) {
	if len(data["ssh-privatekey"]) == 0 {
		return nil, errs.Invalid("Secret %s has no ssh-privatekey", where)
	}
	if len(data["known_hosts"]) == 0 {
		return nil, errs.Invalid("Secret %s has no known_hosts; without it any server could pass for the Git server", where)
	}
	if user == "" {
		user = "git"
	}
	key, err := gitssh.NewPublicKeys(user, data["ssh-privatekey"], "")
	if err != nil {
		// The cause may quote the key.
		return nil, errs.Invalid("the ssh-privatekey of Secret %s cannot be read; it must be a PEM key without a passphrase", where)
	}
	file, err := os.CreateTemp("", "portcullis-known-hosts-")
	if err != nil {
		return nil, errs.Unavailable("cannot write a temporary file: %v", reason(err))
	}
	defer func() { _ = os.Remove(file.Name()) }()
	_, werr := file.Write(data["known_hosts"])
	if cerr := file.Close(); werr != nil || cerr != nil {
		return nil, errs.Unavailable("cannot write a temporary file")
	}
	callback, err := gitssh.NewKnownHostsCallback(file.Name())
	if err != nil {
		return nil, errs.Invalid("the known_hosts of Secret %s cannot be read", where)
	}
	key.HostKeyCallback = callback
	return key, nil
}
