module sipol.example/stranger

go 1.19

require golang.org/x/mod v0.19.0
