import { join } from 'node:path';
import { tidy } from './tidy.ts';

const findings = tidy(join(import.meta.dirname, '../../..'));
for (const { file, line, rule, message } of findings) console.log(`${file}:${line}: ${rule}: ${message}`);
console.log(findings.length === 0 ? 'tidy' : `${findings.length} findings`);
if (findings.length > 0) process.exitCode = 1;
