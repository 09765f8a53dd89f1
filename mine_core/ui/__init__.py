"""The only place in the core that imports Streamlit: components, state in the URL, shared resources."""
