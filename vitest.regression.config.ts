import { defineConfig } from 'vitest/config';

// What takes too long for every commit, one file a risk, one file after the other: each has the whole machine, since
// what it waits for are leases and session timeouts.
export default defineConfig({
  test: {
    globalSetup: ['./dev/src/test-setup.ts'],
    include: ['{regression,libs,apps,dev}/**/*.regression.ts'],
    fileParallelism: false,
    maxWorkers: 1,
    testTimeout: 120_000,
    hookTimeout: 180_000,
    reporters: ['default', './tools/closing-line.ts'],
  },
});
