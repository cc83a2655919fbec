"""Made-up scans and radiographs to practise on."""
