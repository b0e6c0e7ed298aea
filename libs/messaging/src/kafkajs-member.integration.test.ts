import { describeMember } from '../test/conformance/member-suite.ts';
import { kafkajsBus } from './bus-client.ts';

describeMember('kafkajs', kafkajsBus);
