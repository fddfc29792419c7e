"""lm_eval's own command line, with the model "homer"."""

from homer_integrations.lm_eval.harness import main

if __name__ == "__main__":
    main()
