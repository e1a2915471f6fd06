"""FHIR R4 from the same archive: ImagingStudy, Patient and Endpoint are views of the index, computed when they are
asked for; what clients write is kept in documents."""
