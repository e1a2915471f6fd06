"""What a search means on the index of the archive: clauses as conditions on ImagingStudy, Patient and Endpoint."""
