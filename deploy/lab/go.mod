module portcullis.dev/portcullis/deploy/lab

go 1.26.0
