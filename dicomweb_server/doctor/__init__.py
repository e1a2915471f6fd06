"""What viewers and clients ask of a DICOMweb server, asked of any such server, with a reason for each wrong answer.

The requests are those that OHIF with its JavaScript client, and the Python dicomweb-client, were seen to send. Nothing
here uses the rest of this server: the other end may be another product.
"""
