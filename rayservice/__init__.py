"""How the application runs in a cluster: manifests rendered, checked, planned, and made from KServe's.

Knows what `serve_app` deploys; nothing there knows of this.
"""
