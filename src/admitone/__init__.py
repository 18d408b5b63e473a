"""AdmitOne, a ticket resale marketplace of small services that never sells a ticket twice."""
